// A known call tree: main and a goroutine call work(), which calls heavy() and light(). Argument: seconds.
package main

import (
	"os"
	"strconv"
	"time"
)

var sum int

//go:noinline
func heavy() int {
	local := 0
	for i := 0; i < 6000000; i++ {
		local += i ^ local
	}
	return local
}

//go:noinline
func light() int {
	local := 0
	for i := 0; i < 3000000; i++ {
		local += i ^ local
	}
	return local
}

//go:noinline
func work(end time.Time) int {
	local := 0
	for time.Now().Before(end) {
		local += heavy() + light()
	}
	return local
}

//go:noinline
func beside(end time.Time, done chan int) {
	done <- work(end) + 1
}

func main() {
	seconds, _ := strconv.ParseFloat(os.Args[1], 64)
	end := time.Now().Add(time.Duration(seconds * 1e9))
	done := make(chan int)
	go beside(end, done)
	sum = work(end) + <-done
}
