"""What an image needs of settings.ini, one requirement a line: python3 requirements.py EXTRAS [LEFT_OUT]

EXTRAS has commas between names, LEFT_OUT spaces. A name that settings.ini does not have is an error, so that nothing is left out that
was renamed long ago."""
import re, shlex, sys
from configparser import ConfigParser

def name_of(requirement): return re.split(r'[\[<>=!~; ]', requirement)[0].lower().replace('_', '-')

def requirements(settings, # settings.ini
                 extras, # 'serve,cloud'
                 left_out='', # names of packages
                ):
    "The requirements of the base and of some extras, but for some packages"
    config = ConfigParser(delimiters=['='])
    config.read(settings, encoding='utf-8')
    cfg, names = config['DEFAULT'], {name_of(n) for n in left_out.split()}
    wanted = shlex.split(cfg['requirements'])
    for extra in filter(None, extras.split(',')):
        if f'{extra}_requirements' not in cfg: raise SystemExit(f'requirements: settings.ini has no extra {extra!r}')
        wanted += shlex.split(cfg[f'{extra}_requirements'])
    if unknown := names - {name_of(r) for r in wanted}:
        raise SystemExit(f'requirements: {", ".join(sorted(unknown))}: to be left out, and not required')
    return sorted({r for r in wanted if name_of(r) not in names})

if __name__ == '__main__': print('\n'.join(requirements('settings.ini', *sys.argv[1:])))
