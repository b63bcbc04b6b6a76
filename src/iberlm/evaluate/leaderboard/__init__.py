"""A leaderboard from result stores: a static page, a page a task with its items, and exports for papers, model cards and other collections."""
