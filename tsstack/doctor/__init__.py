"""`tsstack doctor`: walks the whole chain from the file to a packet and says what is wrong with it.

One module for each area judges gathered facts, purely; `gathering` looks at the host; `examination` walks.
"""
