"""What the workload of python3 runs: queens on a board, words counted, numbers sorted, and planets; prints what it came to."""


def queens(n, row=0, columns=0, up=0, down=0):
    if row == n:
        return 1
    found = 0
    for column in range(n):
        place = 1 << column
        if not (columns & place or up & 1 << row + column or down & 1 << row - column + n):
            found += queens(n, row + 1, columns | place, up | 1 << row + column, down | 1 << row - column + n)
    return found


def words(count):
    seen, state = {}, 1
    for _ in range(count):
        state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        word = "word" + str(state >> 52)
        seen[word] = seen.get(word, 0) + 1
    return sum(n * len(w) for w, n in sorted(seen.items()))


class Planet:
    def __init__(self, x, y, vx, vy):
        self.x, self.y, self.vx, self.vy = x, y, vx, vy

    def pulled(self, others, dt):
        for other in others:
            if other is not self:
                dx, dy = other.x - self.x, other.y - self.y
                pull = dt / (dx * dx + dy * dy + 0.01) ** 1.5
                self.vx += dx * pull
                self.vy += dy * pull

    def moved(self, dt):
        self.x += self.vx * dt
        self.y += self.vy * dt


def planets(steps):
    bodies = [Planet(i, i * i % 7, 0.1 * i, -0.2 * i) for i in range(8)]
    for _ in range(steps):
        for body in bodies:
            body.pulled(bodies, 0.001)
        for body in bodies:
            body.moved(0.001)
    return sum(b.x * b.y for b in bodies)


print(queens(8), words(400000), sum(sorted((i * 7919 % 1000003 for i in range(300000)))[::1000]), f"{planets(4000):.9f}")
