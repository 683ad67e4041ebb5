"""The demonstration: images drawn on the spot, the whole road from training to scores, and a report."""
