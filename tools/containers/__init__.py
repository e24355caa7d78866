"""The parts of ``check_docker.py``."""
