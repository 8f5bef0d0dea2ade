"""What the tests of several rooms share; the tests of a room import it, never each other.

- `modules`: torch modules, each one case of what users build.
- `nets`: skorch nets around them. `settings`: parameters of short fits.
- `cases`: a module, a criterion and data each, for everything in `sk_obd.curvature`.
- `peers`: more of them, by the problems of other packages' tests.
- `networks`: networks to be pruned and made smaller, for `sk_obd.compact`.
- `fitted`: fitted estimators of every kind, for `sk_obd.export`.
- `marks`: which cases of a long list are slow.

A test module, net or case that only one file needs stays in that file.
"""
