"""Lists the files of imported modules at exit, for the runner that set REPRO_IMPORTS, and the
versions of Python and of packages, each after an equals sign. A line holds any name: backslashes
are doubled, and a line break is a backslash and an n."""

import atexit
import os
import sys


def _write():
    target = os.environ.get("REPRO_IMPORTS")
    if not target:
        return
    files = set()
    versions = {"python": "%d.%d.%d" % sys.version_info[:3]}
    standard = getattr(sys, "stdlib_module_names", ())
    for name, module in list(sys.modules.items()):
        # Not by getattr, which may import more.
        version = getattr(module, "__dict__", {}).get("__version__")
        if isinstance(version, str) and "." not in name and name not in standard:
            versions[name] = version
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            files.add(os.path.abspath(file))
    lines = [os.fsencode(f).replace(b"\\", b"\\\\").replace(b"\n", b"\\n") for f in sorted(files)]
    lines += [("=%s %s" % known).encode("utf-8", "replace") for known in sorted(versions.items())]
    with open(target, "ab") as out:
        out.write(b"".join(line + b"\n" for line in lines))


atexit.register(_write)


def _in_child():
    # A forked child of multiprocessing leaves without atexit, but runs its finalizers.
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, _write, exitpriority=100)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

# The user's own sitecustomize, which this one hides, still has its turn.
_here = os.path.dirname(os.path.abspath(__file__))
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
