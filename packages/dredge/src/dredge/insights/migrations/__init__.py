"""Steps from one version of the tables to the next, run by `dredge.insights.schema.migrate`."""
