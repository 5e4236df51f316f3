"""`python -m fibrin` is the same as `fibrin`."""

from fibrin.entry import main

if __name__ == "__main__":
    main()
