"The processes below one, as a test looks for them"
import psutil

def descendants(word, of=None):
    "Those that live and whose command line holds a word; one may end while it is looked at"
    found = []
    for p in psutil.Process(of).children(recursive=True):
        try:
            if word in ' '.join(p.cmdline()): found.append(p)
        except psutil.Error: pass # gone, or a zombie
    return found
