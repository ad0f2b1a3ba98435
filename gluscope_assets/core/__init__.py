"""The computation: texts to tokens to shards to aggregates to pages. No module here knows Dagster."""
