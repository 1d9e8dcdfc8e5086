"""Named protocols: which utterances, which folds, which validation part."""
