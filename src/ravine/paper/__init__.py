"""Goodfellow and Vinyals, *Qualitatively characterizing neural network optimization problems*.

Networks, data, training and recipes as the original had them, on ravine's public face only.
"""
