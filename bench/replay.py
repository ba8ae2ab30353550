"""How fast is a real chat log played, with every delivery checked?

Against a running server: `python -m bench.replay FILE --connections 200 --rate 10000`. The same as
`realtime replay`, which documents the options.
"""

import sys

from realtime.client.replay import main

if __name__ == "__main__":
    sys.exit(main())
