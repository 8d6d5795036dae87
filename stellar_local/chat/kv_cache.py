class KVCache:
    def __init__(self, *a):
        pass

    def save(self, *a):
        return 0

    def restore(self, *a):
        return 0
