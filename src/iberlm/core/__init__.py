"""What every stage stands on: manifests, the stage runner, languages, errors, atomic files, progress."""
