"""Draw, train and record: everything from image files to the tables that `analysis` reads."""
