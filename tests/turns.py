"Cases of long tests take turns: `@pytest.mark.turns(n)`"
import zlib
from collections import Counter

def in_turn(items, turn):
    "Of a test that is marked `turns(n)` every n-th case, other ones for another `turn`; of all other tests each"
    seen, out = Counter(), []
    for i in items:
        if mark := i.get_closest_marker('turns'):
            name, n = i.nodeid.split('[')[0], mark.args[0]
            seen[name] += 1
            if (seen[name] + turn + zlib.crc32(name.encode())) % n: continue
        out.append(i)
    return out
