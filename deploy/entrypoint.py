"""Secrets by file, and a look at a server's health: what an image without a shell needs besides its program.

NAME_FILE=/run/secrets/x becomes NAME=content of that file for the program that follows, which takes the place of this one. So a
secret stands neither in compose.yml nor in what `docker inspect` tells, and no command line has it."""
import os, sys, urllib.error, urllib.request

SECRETS = ('PGPASSWORD',                                                        # read by PostgreSQL's library
           'AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN',   # by the object store's
           'RETINA_NB_KEY')                                                     # by the panel

class Wrong(Exception): "The message says what is wrong, without the secret"

def with_secrets(env):
    "The environment with the secrets that files hold"
    out = dict(env)
    for name in SECRETS:
        file = out.pop(f'{name}_FILE', '')
        if not file: continue
        if out.get(name): raise Wrong(f'{name} and {name}_FILE are both set: keep one')
        try:
            with open(file, encoding='utf-8') as f: value = f.read().strip()
        except (OSError, UnicodeDecodeError) as e:
            raise Wrong(f'{name}_FILE: {file} cannot be read ({getattr(e, "strerror", None) or "no text"})') from None
        if not value or '\n' in value or '\0' in value: raise Wrong(f'{name}_FILE: {file} must hold one line')
        out[name] = value
    return out

def healthy(url, status='200'):
    "Does a server answer with this status?"
    try:
        with urllib.request.urlopen(url, timeout=4) as r: said = r.status
    except urllib.error.HTTPError as e: said = e.code
    except (OSError, ValueError): return False
    return str(said) == status

def main(argv):
    if argv[:1] == ['--healthy']: return 0 if healthy(*argv[1:]) else 1
    if not argv: raise Wrong('name a program, such as retina_serve')
    try: os.execvpe(argv[0], argv, with_secrets(os.environ))
    except OSError as e: raise Wrong(f'{argv[0]}: cannot be started ({e.strerror})') from None

if __name__ == '__main__':
    try: sys.exit(main(sys.argv[1:]))
    except Wrong as e:
        print(f'entrypoint: {e}', file=sys.stderr)
        sys.exit(2)
