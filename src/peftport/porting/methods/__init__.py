"""The methods of porting, one file each. They are listed in `peftport.porting`."""
