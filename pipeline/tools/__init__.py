"""What a person types that is no stage."""
