"""The stages: each module turns what a pipeline file says of one type of stage into code that works on one event."""
