"""Clean-up by hand or by month: bronze vacuum and database retention (to come)."""
