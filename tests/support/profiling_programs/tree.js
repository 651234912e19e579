// A known call tree: main calls work(), which calls heavy() and light(). Argument: seconds.
"use strict";
let sum = 0;

function spin(thousands) {
  for (let i = 0; i < thousands * 1000; i++) sum = (sum + i) % 1000003;
  return sum;
}

function heavy() {
  return spin(600) + 1;
}

function light() {
  return spin(300) + 1;
}

function work(end) {
  let total = 0;
  while (Date.now() < end) total += heavy() + light();
  return total;
}

function main() {
  return work(Date.now() + 1000 * parseFloat(process.argv[2])) + 1;
}

main();
