package main

import "os"

// stubNodeMain stands in for the program where a test needs a node to start without an engine.
func stubNodeMain() { os.Exit(run(os.Args)) }
