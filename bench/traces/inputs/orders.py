import json

x = 2463534242
def rand(n):
    global x
    x = (x ^ (x << 13)) & 0xFFFFFFFF
    x ^= x >> 17
    x = (x ^ (x << 5)) & 0xFFFFFFFF
    return x % n

names = ["n%05x" % rand(1 << 20) for _ in range(2500)]
orders = [{"id": i, "name": names[rand(2500)], "price": rand(10000), "tags": [rand(50) for _ in range(rand(4))]}
          for i in range(2500)]
text = json.dumps(orders)
orders = json.loads(text)
totals = {}
for order in orders:
    totals[order["name"]] = totals.get(order["name"], 0) + order["price"]
orders.sort(key=lambda order: (order["price"], order["id"]))
print(len(text), max(totals.values()), orders[len(orders) // 2]["id"])
