"""The parts of `upgrade`: many modules from one host to another.

`pair` holds the two hosts, opened once; `candidates` reads and checks each module; `measured` tests several at once;
`ledger` keeps what is done, so that an interrupted upgrade goes on; `cards` says it in each module's folder; `pushing`
puts the folders on the hub.
"""
