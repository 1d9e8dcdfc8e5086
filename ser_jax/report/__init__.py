"""Pages, figures and console tables of runs, comparisons and protocols."""
