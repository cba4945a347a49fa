"""Files for browsers: the sources, and the build that bundles them.

``client`` has flow-client, ``site`` the pages. Vite bundles them into ``built``, which git ignores and every
wheel and sdist contains. This package imports the standard library only, because the build backend loads it
in an environment that has nothing else.
"""
