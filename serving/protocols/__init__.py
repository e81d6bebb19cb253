"""Other protocols than our own: the Open Inference Protocol v2 and MLflow's scoring protocol, over the same path."""
