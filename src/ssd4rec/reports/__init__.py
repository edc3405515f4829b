"""HTML reports: one page without other files, readable in light and dark colors and on a phone."""
