"""Planning with a world model: what is searched for, by whom, and how it is judged cheap."""
