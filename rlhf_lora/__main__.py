"""`python -m rlhf_lora`."""

from rlhf_lora.cli import main

if __name__ == "__main__":
    main()
