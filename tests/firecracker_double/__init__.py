"""A double of Firecracker: a program that speaks its API and checks every request against the API's description."""
