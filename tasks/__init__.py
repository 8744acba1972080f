"""What flows through Repli and what is done to it: the engine, the stages, the models and the store."""
