# Keeps the header and every usable row; counts what it drops, by the first reason that applies.
BEGIN { FS = "," }
NR == 1 { print > out; next }
NF != 6 || $5 == "" || $6 == "" { missing++; next }
$5 + 0 <= 0 || $6 + 0 <= 0 { invalid++; next }
seen[$1]++ { duplicate++; next }
{ print > out; kept++ }
END {
    printf "{\"kept\": %d, \"missing\": %d, \"invalid\": %d, \"duplicate\": %d}\n", kept, missing, invalid, duplicate
}
