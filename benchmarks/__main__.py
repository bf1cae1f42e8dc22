"The command `python -m benchmarks`."
from benchmarks.speed import command # a module of its own: processes that it starts must find its functions

if __name__ == '__main__': command()
