"""Training: the loop, evaluation, checkpoints, several processes. Import what you need from the files; this one stays empty,
so that what needs no torch (world.is_main) can be had without it."""
