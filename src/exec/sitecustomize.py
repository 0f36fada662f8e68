"""Tells the runner that set REPRO_IMPORTS what a Python imports: see exec/python.rs for the lines.

Everything here must leave the program as it would be without: errors are swallowed, nothing is
imported that Python has not imported by itself, and names begin with an underscore. A line holds any
name: backslashes are doubled, and line breaks and tabs are `\\n` and `\\t`."""

import os
import sys

_target = os.environ.get("REPRO_IMPORTS")
_here = os.path.dirname(os.path.abspath(__file__))
_lines = []
_first = os.getpid()
_seen = set()
_path = []


def _flush(last=False):
    global _lines
    lines, _lines = _lines, []
    if last:
        lines.append("!%d" % os.getpid())
    if not lines:
        return
    try:
        # Opened anew each time: a program may close whatever is open.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(_target, flags, 0o666)
        try:
            os.write(fd, "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape"))
        finally:
            os.close(fd)
    except OSError:
        pass


def _say(line):
    _lines.append(line)
    # A forked worker may be killed at any moment, and imports little.
    if len(_lines) >= 256 or os.getpid() != _first:
        _flush()


def _escaped(path):
    return path.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def _installed(folder):
    return "site-packages" in folder or "dist-packages" in folder or folder.startswith(_library)


class _Finder:
    """Finds nothing, but is asked first for every module."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        try:
            if name not in _seen:
                _seen.add(name)
                if path is None and name in _built_in:
                    pass
                elif path is None:
                    if _path != sys.path:
                        _path[:] = sys.path
                        folders = [os.path.abspath(p or ".") for p in _path if isinstance(p, str)]
                        folders = [f for f in folders if not _installed(f)]
                        _say("@%d\t%s" % (os.getpid(), "\t".join(map(_escaped, folders))))
                    _say("?%d\t%s" % (os.getpid(), name))
                else:
                    folders = [os.path.abspath(p) for p in path if isinstance(p, str)]
                    folders = [f for f in folders if not _installed(f)]
                    if folders:
                        name = name.rpartition(".")[2]
                        _say("?%d\t%s\t%s" % (os.getpid(), name, "\t".join(map(_escaped, folders))))
        except Exception:
            pass
        return None


def _watch_listings():
    finder = sys.modules["_frozen_importlib_external"].FileFinder
    fill = finder._fill_cache

    def _fill_cache(self):
        fill(self)
        try:
            if not _installed(self.path):
                _say(">%d\t%s" % (os.getpid(), _escaped(os.path.abspath(self.path or "."))))
        except Exception:
            pass

    finder._fill_cache = _fill_cache


def _last_words():
    """Versions of what was imported, and the files, for a runner that could not watch."""
    standard = getattr(sys, "stdlib_module_names", ())
    versions = {"python": "%d.%d.%d" % sys.version_info[:3]}
    for name, module in list(sys.modules.items()):
        # Not by getattr, which may import more.
        known = getattr(module, "__dict__", {})
        version = known.get("__version__")
        if isinstance(version, str) and "." not in name and name not in standard:
            versions[name] = version.replace("\n", " ")
        file = known.get("__file__")
        if isinstance(file, str):
            _lines.append(_escaped(os.path.abspath(file)))
    _lines.extend("=%s %s" % known for known in sorted(versions.items()))
    _flush(last=True)


def _before(function):
    """A function that ends this program or makes it another, after the last words."""

    def ended(*args, **kwargs):
        try:
            _last_words()
        except Exception:
            pass
        return function(*args, **kwargs)

    ended.__name__ = function.__name__
    ended.__doc__ = function.__doc__
    return ended


def _in_child():
    _lines.clear()
    _say("+%d" % os.getpid())
    # A child of multiprocessing that is asked to end leaves by its finalizers.
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, _last_words, exitpriority=100)


if _target:
    try:
        import atexit

        _built_in = frozenset(sys.builtin_module_names)
        _library = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
        _say("+%d" % _first)
        # What stands before the script's folder is imported by now and cannot be shadowed; names
        # that other folders of PYTHONPATH could have provided can.
        for _name in sys.modules:
            _seen.add(_name)
            if os.pathsep in os.environ.get("PYTHONPATH", "") and "." not in _name:
                _say("?%d\t%s" % (_first, _name))
        sys.meta_path.insert(0, _Finder)
        _watch_listings()
        atexit.register(_last_words)
        for _name in ("_exit", "execv", "execve"):
            setattr(os, _name, _before(getattr(os, _name)))
        os.register_at_fork(before=_flush, after_in_child=_in_child)
    except Exception:
        pass

# The user's own sitecustomize, which this one hides, still has its turn.
sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != _here]
_me = sys.modules.pop("sitecustomize", None)
try:
    import sitecustomize  # noqa: F401
except ImportError as error:
    if error.name != "sitecustomize":
        raise
    # Python takes this one out of the list of modules once it has run, and complains if it is gone.
    if _me is not None:
        sys.modules["sitecustomize"] = _me
