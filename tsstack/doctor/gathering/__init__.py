"""The looking: each module asks the host for the facts that the area of its name judges. Changes nothing."""
