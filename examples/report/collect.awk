# Copies the data and describes it as JSON.
NR == 1 { columns = split($0, header, ",") }
{ print > out }
END { printf "{\"rows\": %d, \"columns\": %d}\n", NR - 1, columns }
