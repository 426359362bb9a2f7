"""The courtyard that `render_example_panorama.py` renders: its solids, its materials, its sun and sky.

x right, y up, z forward, metres; the eye stands at (0, 1.6, 0). In front a white house with a green door and
a balcony, on the right a brick wall with awnings, behind an arcade with paintings, on the left a wall of blue
tiles with a fountain.
"""
