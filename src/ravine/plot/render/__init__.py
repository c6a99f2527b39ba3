"""Renderers: panels drawn by matplotlib for files, by Plotly for pages."""
