"""The report: the stage folders of a run as one offline HTML file."""
