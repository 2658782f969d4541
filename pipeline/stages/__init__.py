"""The stages of `dvc repro`: argv, disk and progress bar around the library modules."""
