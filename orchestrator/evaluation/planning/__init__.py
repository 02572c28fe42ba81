"""Can a model be acted with? Goals in a world, reached by planning, beside what needs no model."""
