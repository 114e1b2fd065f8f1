"The lessons of the course, each from top to bottom in a fresh kernel, without a network; before them the network that they share. A figure is seconds by the clock, its goal the most that counts as reached."
from time_course import lessons, timed

THREADS = 2

def bench(quick): yield from timed([*lessons()][:1] if quick else [])
