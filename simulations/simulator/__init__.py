"""A mesh in virtual time: the agent's own code heals random meshes from thousands of failures nobody can stage.

`mesh` draws a mesh, `plant` lets requests flow through it, `faults` break it, `control` stands for the control plane, `world`
puts the agent's loop on top, `campaign` plays many incidents and `score` judges them.
"""
