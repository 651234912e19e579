// Busy, and serves its own profiles: the first line that it prints is where. It ends with its standard input.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
)

var kept [][]byte
var sum uint64

//go:noinline
func spins() {
	for count := uint64(0); count < 10000000; count++ {
		sum += count * count
	}
}

//go:noinline
func keeps() {
	kept = append(kept, make([]byte, 4<<20))
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	for len(kept) < 4 {
		keeps()
	}
	fmt.Println(listener.Addr())
	go func() { _ = http.Serve(listener, nil) }()
	go func() {
		for {
			spins()
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}
