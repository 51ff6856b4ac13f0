"""XY routing on a 3x3 mesh: a transfer holds all links of its route, x first and then y, for one and the same time."""


def step(at, to):
    return (at > to) - (at < to)


def route(source, target):
    """Link names of the XY route between nodes (x, y)."""
    (x, y), links = source, []
    while (x, y) != target:
        nx = x - step(x, target[0])
        ny = y - step(y, target[1]) if nx == x else y
        links.append(f"{x}{y}>{nx}{ny}")
        x, y = nx, ny
    return links


def test_route_goes_along_x_first():
    assert route((0, 0), (2, 1)) == ["00>10", "10>20", "20>21"]
    assert route((2, 2), (1, 0)) == ["22>12", "12>11", "11>10"]


def test_exclusive_links(board):
    # A 00 to 21, 30: 00>10 10>20 20>21               0-30
    # B 10 to 20, 10: 10>20                           behind A: 30-40
    # C 01 to 21, 20: 01>11 11>21                     meets A only in a node, not in a link: 0-20
    # D 00 to 02, 10: 00>01 01>02                     0-10
    # E 01 to 12, 15: 01>11 11>12                     behind C: 20-35
    # F 10 to 22,  5: 10>20 20>21 21>22               behind A, B, and G, H on its last link: 45-50
    # G 21 to 22, 25: 21>22                           0-25: F waits and reserves nothing
    # H 21 to 22, 20: 21>22, asked for at 10 (after D) 25-45: F's first links are not free then
    # I 20 to 10, 15: 20>10, the other direction of B 0-15
    nodes = [(x, y) for x in range(3) for y in range(3)]
    b = board([f"{x}{y}>{u}{v}" for x, y in nodes for u, v in nodes if abs(x - u) + abs(y - v) == 1])
    for name, source, target, ps in [("A", (0, 0), (2, 1), 30), ("B", (1, 0), (2, 0), 10), ("C", (0, 1), (2, 1), 20),
                                     ("D", (0, 0), (0, 2), 10), ("E", (0, 1), (1, 2), 15), ("F", (1, 0), (2, 2), 5),
                                     ("G", (2, 1), (2, 2), 25), ("H", (2, 1), (2, 2), 20), ("I", (2, 0), (1, 0), 15)]:
        b.op(name, dict.fromkeys(route(source, target), ps), after=["D"] if name == "H" else [])
    b.run()
    assert b.times() == {"A": (0, 30), "B": (30, 40), "C": (0, 20), "D": (0, 10), "E": (20, 35), "F": (45, 50),
                         "G": (0, 25), "H": (25, 45), "I": (0, 15)}
