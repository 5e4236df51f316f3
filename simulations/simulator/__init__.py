"""A mesh in virtual time: the agent's own code heals random meshes from thousands of failures nobody can stage.

`mesh` draws a mesh, `plant` lets requests flow through it. `faults` and `meshfaults` name what can break, `scenario` puts it together,
`mixture` draws from it; `damage` breaks services, `world` the mesh itself, `guilt` says who is at fault. `control` stands for the control
plane, `sight` for the way of telemetry, `process` runs the agent. `campaign` plays many incidents and `score` judges them.
"""
