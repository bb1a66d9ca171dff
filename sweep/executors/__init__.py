"""Where batches run: this process, local processes, Ray. One room each; all give the same rows."""
