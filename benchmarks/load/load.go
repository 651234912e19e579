// Load for benchmarks/api_against_kubernetes.py: many connections over TLS that cost the machine little.
//
// A plan comes as a line of JSON on the standard input; "connected" is answered; after one more line the calls begin, and
// what was measured leaves as a line of JSON:
//
//	groups    clients that call one path again and again, for a time or so many calls, at full speed or at a pace;
//	          every group runs at the same time. "{n}" in path and body is a new number, "{c}" the number of the client.
//	watchers  connections that watch a path, and calls of which each is timed until the last watcher has its event.
//
// HTTP/1.1 on purpose, one request at a time on a connection: what a client waits for is then what the server took.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

type group struct {
	Name        string  `json:"name"`
	Clients     int     `json:"clients"`
	Method      string  `json:"method"`
	Path        string  `json:"path"`
	Body        string  `json:"body"`
	ContentType string  `json:"content_type"`
	Accept      string  `json:"accept"`
	From        int64   `json:"from"`        // the first {n}
	Calls       int64   `json:"calls"`       // of all clients; 0: until the time is over
	IntervalMs  float64 `json:"interval_ms"` // between the calls of one client; 0: the next as soon as the last is answered
}

type plan struct {
	Address  string  `json:"address"`
	CA       string  `json:"ca"`
	Token    string  `json:"token"`
	Seconds  float64 `json:"seconds"`
	Groups   []group `json:"groups"`
	Watchers int     `json:"watchers"`
	Watch    string  `json:"watch"`
	Rounds   int     `json:"rounds"`
}

type result struct {
	Name  string  `json:"name"`
	Calls int     `json:"calls"`
	Took  float64 `json:"took_s"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	Worst float64 `json:"worst_ms"`
	Bytes int64   `json:"bytes"` // of the last answer of the first client
}

type connection struct {
	plan   *plan
	tls    *tls.Conn
	reader *bufio.Reader
}

func (p *plan) connect() *connection {
	pem, err := os.ReadFile(p.CA)
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	conn, err := tls.Dial("tcp", p.Address, &tls.Config{RootCAs: roots, NextProtos: []string{"http/1.1"}})
	check(err)
	return &connection{p, conn, bufio.NewReaderSize(conn, 32<<10)}
}

// send writes a request and reads the head of its answer.
func (c *connection) send(method, path, body, contentType, accept string) *http.Response {
	head := method + " " + path + " HTTP/1.1\r\nHost: " + c.plan.Address + "\r\nAuthorization: Bearer " + c.plan.Token +
		"\r\nUser-Agent: bench/1\r\nAccept: " + accept + "\r\nContent-Type: " + contentType + "\r\nContent-Length: " +
		strconv.Itoa(len(body)) + "\r\n\r\n"
	_, err := io.WriteString(c.tls, head+body)
	check(err)
	answer, err := http.ReadResponse(c.reader, nil)
	check(err)
	if answer.StatusCode >= 300 {
		text, _ := io.ReadAll(answer.Body)
		log.Fatalf("%s %s: %d %.500s", method, path, answer.StatusCode, text)
	}
	return answer
}

func (c *connection) call(g *group, n int64, client int) int64 {
	fill := strings.NewReplacer("{n}", strconv.FormatInt(n, 10), "{c}", strconv.Itoa(client))
	answer := c.send(g.Method, fill.Replace(g.Path), fill.Replace(g.Body), g.ContentType, g.Accept)
	size, err := io.Copy(io.Discard, answer.Body)
	check(err)
	return size
}

// clients connects the clients of one group and returns what measures it. The latency of a paced call counts from when it
// was due, so that a server that stalls is not spared the calls that it kept from being made.
func (p *plan) clients(g *group) func() result {
	var connections []*connection
	for range g.Clients {
		connections = append(connections, p.connect())
	}
	next := g.From - 1
	var done, size int64
	latencies := make([][]float64, g.Clients)
	client := func(i int, origin time.Time) {
		until := origin.Add(time.Duration(p.Seconds * float64(time.Second)))
		interval := time.Duration(g.IntervalMs * float64(time.Millisecond))
		offset := interval * time.Duration(i) / time.Duration(g.Clients)
		for k := 0; ; k++ {
			due := time.Now()
			if interval > 0 {
				due = origin.Add(offset + time.Duration(k)*interval)
				time.Sleep(time.Until(due))
			}
			if g.Calls == 0 && due.After(until) || g.Calls > 0 && atomic.AddInt64(&done, 1) > g.Calls {
				return
			}
			bytes := connections[i].call(g, atomic.AddInt64(&next, 1), i)
			if i == 0 {
				size = bytes
			}
			latencies[i] = append(latencies[i], time.Since(due).Seconds()*1e3)
		}
	}
	return func() result {
		began := time.Now()
		var finished sync.WaitGroup
		for i := range connections {
			finished.Go(func() { client(i, began) })
		}
		finished.Wait()
		return summed(g.Name, latencies, time.Since(began), size)
	}
}

func summed(name string, latencies [][]float64, took time.Duration, size int64) result {
	var all []float64
	for _, some := range latencies {
		all = append(all, some...)
	}
	sort.Float64s(all)
	at := func(share float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return all[min(int(share*float64(len(all))), len(all)-1)]
	}
	return result{name, len(all), took.Seconds(), at(0.5), at(0.99), at(1), size}
}

// fanOut connects the watchers and returns what times calls of the first group until the last watcher has the event.
func (p *plan) fanOut() func() result {
	var got sync.WaitGroup
	for range p.Watchers {
		body := bufio.NewReader(p.connect().send("GET", p.Watch, "", "application/json", "application/json").Body)
		go func() {
			for {
				if _, err := body.ReadSlice('\n'); err != nil {
					return // the program ends
				}
				got.Done()
			}
		}()
	}
	writer := p.connect()
	return func() result {
		g := &p.Groups[0]
		var latencies []float64
		began := time.Now()
		for round := range p.Rounds {
			got.Add(p.Watchers)
			asked := time.Now()
			writer.call(g, g.From+int64(round), 0)
			got.Wait()
			latencies = append(latencies, time.Since(asked).Seconds()*1e3)
		}
		return summed(g.Name, [][]float64{latencies}, time.Since(began), 0)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	stdin := bufio.NewReader(os.Stdin)
	line, err := stdin.ReadBytes('\n')
	check(err)
	var p plan
	check(json.Unmarshal(line, &p))
	var measures []func() result
	if p.Watchers > 0 {
		measures = append(measures, p.fanOut())
	} else {
		for i := range p.Groups {
			measures = append(measures, p.clients(&p.Groups[i]))
		}
	}
	fmt.Println("connected")
	_, err = stdin.ReadBytes('\n')
	check(err)
	results := make([]result, len(measures))
	var finished sync.WaitGroup
	for i, measure := range measures {
		finished.Go(func() { results[i] = measure() })
	}
	finished.Wait()
	check(json.NewEncoder(os.Stdout).Encode(results))
}
