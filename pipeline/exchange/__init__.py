"""Labels to the files of other tools, and the sets of labels that are compared or exported."""
