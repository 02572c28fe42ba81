"""From a profile, and a job, to files for KubeRay, Slurm, Ray's cluster launcher and MLflow.

Every module here is a pure function of what it is given; `render.render` calls them.
"""
